"""Elementary functions of the Triton kernels, as ``csrc/core/simd.h`` defines them.

All take float32 tensors. Not-a-number stays not-a-number; no function here is special to one maker of GPUs.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.442695040888963407)
LN_2 = tl.constexpr(0.693147180559945309)


@triton.jit
def sigmoid(x):
    """``1 / (1 + exp(-x))``."""
    return 1.0 / (1.0 + tl.exp2(x * -LOG2_E))


@triton.jit
def softplus(x):
    """``max(x, 0) + log(1 + exp(-|x|))``, exact to rounding over the whole range, and its derivative."""
    e = tl.exp2(tl.abs(x) * -LOG2_E)
    # log(1 + e) for e in [0, 1], as 2 artanh(e / (2 + e)): Triton has no log1p that is the same on every GPU.
    s = e / (e + 2.0)
    q = s * s
    p = 0.280119925737381 * q + 0.28001803159713745
    p = p * q + 0.4002152681350708
    p = p * q + 0.666664183139801
    p = p * q + 2.0
    slope = tl.where(x < 0, e, 1.0) / (1.0 + e)
    return tl.where(x < 0, 0.0, x) + s * p, slope
