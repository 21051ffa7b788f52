"""One device or eight, one process or two: the same run. And processes that lose one another."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.data import record_dataset, simulation
from ris_jax.training import devices, loop, processes, record
from ris_jax.training import state as state_lib
from ris_jax.training import step as step_lib

_WORKER = pathlib.Path(__file__).with_name("worker.py")
_EPOCHS, _STEPS, _BAD = 3, 7, 5  # 21 microbatches, one of them not finite: 20 updates
_SECONDS_TO_STOP = 60.0  # after another process was lost
# Compiling for eight devices on a busy machine takes minutes.
pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]
