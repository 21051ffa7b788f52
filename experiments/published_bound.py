"""Position error bound of a published near-field case, recomputed from the set-up of its paper.

  python experiments/published_bound.py

Case: Abu-Shaban, Keykhosravi, Keskin, Alexandropoulos, Seco-Granados and Wymeersch, *Near-field
localization with a reconfigurable intelligent surface acting as lens*, arXiv:2010.05617.

Set-up: 28 GHz; 50 x 50 elements at (i - 25) lambda / 2, i = 0 ... 49, in the x-y plane; one antenna
one wavelength behind the surface, whose channel has the power of the paper's model CM3 and, since
the paper's codes remove it, no phase; 200 codes of random phases; one source on the diagonal
x = y = z; 1 mW and noise of 2.51e-11 mW. Waves have unit modulus over the surface.

CM3 of an element of area A = (lambda / 2)^2 at (x, y), for an antenna at distance z: the integral of
the effective aperture over the element, with primitive

  g(x, y) = (1 / (12 pi)) (x y z (x^2 + z^2)^-1 / R + 2 atan(x y / (z R)) + ...)

see `element_power`. The power of a source in free space reaches an element as (lambda / 4 pi r)^2.
"""
