"""The table: operator → rule."""

from survey_lib.mechanics.rules.axes import along, on_space, pad, pooled, reduce, unfold
from survey_lib.mechanics.rules.call import Rule
from survey_lib.mechanics.rules.elements import pointwise, same_shape
from survey_lib.mechanics.rules.layers import (
    batch_norm,
    channel_norm,
    conv,
    embedding,
    linear,
    prelu,
    transposed,
)
from survey_lib.mechanics.rules.making import factory, like, truth, where, write
from survey_lib.mechanics.rules.moves import index, narrow, rearrange, repeat, repeat_interleave
from survey_lib.mechanics.rules.pieces import chunk, concatenate, glu, split, unbind
from survey_lib.mechanics.rules.products import attention, einsum, matmul
from survey_lib.mechanics.rules.views import expand, flatten, like_other, reshape, unflatten

# fmt: off
# Functions, methods and operators by name; in-place names lose their underscore, dunders theirs.
BY_RULE: tuple[tuple[Rule, str], ...] = (
    (same_shape,
     "relu relu6 leaky_relu rrelu elu celu selu gelu silu mish sigmoid logsigmoid tanh softplus "
     "softsign softshrink hardshrink tanhshrink hardswish hardsigmoid hardtanh threshold dropout "
     "dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout neg abs "
     "exp expm1 log log2 log1p log10 sqrt rsqrt square sin cos tan erf sign round floor ceil "
     "trunc reciprocal contiguous clone float double half bfloat16 bool int long to type type_as "
     "cpu cuda detach data real alias stochastic_depth nan_to_num positive isnan isinf isfinite "
     "logical_not bitwise_not invert logit deg2rad acos asin atan sinh cosh fill zero bernoulli "
     "normal uniform"),
    (pointwise,
     "add iadd radd sub isub rsub subtract mul imul rmul multiply div idiv rdiv truediv itruediv "
     "rtruediv divide true_divide floordiv ifloordiv rfloordiv floor_divide pow ipow rpow "
     "remainder mod imod fmod maximum minimum fmax fmin atan2 eq ne lt le gt ge greater less "
     "greater_equal less_equal not_equal logical_and logical_or logical_xor and or xor iand ior "
     "ixor rand ror rxor clamp clip clamp_min clamp_max masked_fill addcmul addcdiv lerp "
     "copysign hypot float_power xlogy isclose copy"),
    (conv, "conv1d conv2d conv3d"),
    (transposed, "conv_transpose1d conv_transpose2d conv_transpose3d"),
    (linear, "linear"),
    (embedding, "embedding"),
    (batch_norm, "batch_norm instance_norm"),
    (channel_norm, "layer_norm rms_norm group_norm local_response_norm"),
    (prelu, "prelu"),
    (reshape, "view reshape"),
    (like_other, "view_as reshape_as expand_as"),
    (expand, "expand broadcast_to"),
    (flatten, "flatten ravel"),
    (unflatten, "unflatten"),
    (rearrange,
     "permute transpose swapaxes swapdims movedim moveaxis squeeze unsqueeze T mT t"),
    (index, "getitem"),
    (narrow, "narrow select index_select"),
    (repeat, "repeat tile"),
    (repeat_interleave, "repeat_interleave"),
    (chunk, "chunk tensor_split"),
    (split, "split split_with_sizes"),
    (glu, "glu"),
    (unbind, "unbind iter"),
    (concatenate, "cat concat concatenate stack"),
    (along(1), "softmax log_softmax softmin cumsum cumprod logcumsumexp flip"),
    (along(2), "roll"),
    (along(1, -1), "sort argsort"),
    (along(2, 1), "normalize"),
    (along(4, -1), "gumbel_softmax"),
    (reduce(1),
     "mean sum amax amin std var max min argmax argmin prod any all logsumexp var_mean std_mean "
     "median nansum nanmean aminmax count_nonzero"),
    (reduce(2), "norm vector_norm linalg_vector_norm"),
    *((pooled,
       f"max_pool{d}d avg_pool{d}d adaptive_avg_pool{d}d adaptive_max_pool{d}d lp_pool{d}d "
       f"fractional_max_pool{d}d max_unpool{d}d max_pool{d}d_with_indices "
       f"adaptive_max_pool{d}d_with_indices fractional_max_pool{d}d_with_indices")
      for d in (1, 2, 3)),
    (on_space,
     "interpolate upsample grid_sample affine_grid upsample_bilinear upsample_nearest"),
    (pad, "pad"),
    (unfold, "unfold"),
    (matmul, "matmul rmatmul bmm mm"),
    (attention, "scaled_dot_product_attention"),
    (einsum, "einsum"),
    (like, "zeros_like ones_like empty_like full_like rand_like randn_like"),
    (factory,
     "zeros ones empty full rand randn new_zeros new_ones new_empty new_full"),
    (write,
     "setitem index_put index_copy index_add scatter scatter_add masked_scatter index_fill"),
    (truth, "truth item tolist nonzero argwhere numpy allclose equal is_nonzero"),
    (where, "where"),
)
# fmt: on
RULES: dict[str, Rule] = {name: rule for rule, names in BY_RULE for name in names.split()}
ALWAYS = frozenset(
    name
    for name, rule in RULES.items()
    if rule
    in (conv, transposed, linear, embedding, batch_norm, prelu, channel_norm, matmul, attention,
        einsum, truth)
)  # fmt: skip
"""Looked at whatever the inputs carry: these bring labels, cost MACs or decide."""
