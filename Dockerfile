# Tests in a clean environment: docker build -t ris-jax . && docker run --rm ris-jax
# Everything that .ci/run checks: docker run --rm ris-jax .ci/run
FROM python:3.11-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends chromium chromium-driver postgresql \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /ris_jax
COPY . .
RUN pip install --no-cache-dir -e '.[test]'
CMD ["pytest"]
