"""A GRU over sequences of different lengths that never computes a padded step.

``torch.nn.GRU`` computes padding, and on a CPU its packed sequences cost more than the padding
they save. Sequences sorted by length, longest first, shrink from the end as time goes on, so
step t works on the first ``counts[t]`` rows. The backward pass is written by hand: each step stays
in the cache and adds to the gradients of the weights in place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# A gradient times the slope of a function whose value is known, in one pass.
_sigmoid_slope = torch.ops.aten.sigmoid_backward.grad_input
_tanh_slope = torch.ops.aten.tanh_backward.grad_input


class RaggedGRU(torch.autograd.Function):
    """``h_t = GRU(x_t, h_{t-1})`` with ``h_{-1} = 0``, in ``torch.nn.GRUCell``'s equations.

    x ``[R, I]``: every row, time-major (all rows of step 0, then all of step 1, ...); weight_ih
    ``[3H, I]``, weight_hh ``[3H, H]``, bias_ih and bias_hh ``[3H]``; counts: rows per step, never
    growing, ``sum(counts) = R``. Returns the hidden states ``[R, H]``.

    The gates of a row stand as ``n | r | z | m`` (``m = h W_hn^T + b_hn``, which r multiplies), so
    that the input's side is the first three and the hidden state's side the last three.
    """

    @staticmethod
    def forward(ctx, x, weight_ih, weight_hh, bias_ih, bias_hh, counts):  # type: ignore[no-untyped-def]
        size, rz = weight_hh.shape[1], 2 * weight_hh.shape[1]
        weight_x, weight_h = weight_ih.roll(size, 0), weight_hh.t().contiguous()
        bias_x = torch.cat([bias_ih[rz:], bias_ih[:rz] + bias_hh[:rz]])
        weight_x[:size] *= 2  # for the hyperbolic tangent below
        bias_x[:size] *= 2
        weight_x = weight_x.t().contiguous()
        keep = any(ctx.needs_input_grad)  # else each step writes over the gates of the one before
        gates = x.new_empty(len(x) if keep else counts[0], 4 * size)
        hidden = x.new_empty(len(x), size)
        views, xs, hs = _views(gates, counts, keep), x.split(counts), hidden.split(counts)
        minus, previous = x.new_full((counts[0], size), -1.0), x.new_zeros(counts[0], size)
        for t, count in enumerate(counts):
            x_side, h_side, new, reset, update, inner = views[t]
            previous = previous[:count]
            torch.addmm(bias_x, xs[t], weight_x, out=x_side)
            inner.copy_(bias_hh[rz:])
            h_side.addmm_(previous, weight_h)
            h_side[:, :rz].sigmoid_()
            # tanh(y) = 2 sigmoid(2y) - 1, a third of torch's time for tanh itself on a CPU.
            new.addcmul_(reset, inner, value=2).sigmoid_()
            torch.add(minus[:count], new, alpha=2, out=new)
            previous = torch.lerp(new, previous, update, out=hs[t])
        if keep:
            ctx.save_for_backward(x, hidden, gates, weight_ih, weight_hh)
            ctx.counts = counts
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_hidden):  # type: ignore[no-untyped-def]
        x, hidden, gates, weight_ih, weight_hh = ctx.saved_tensors
        counts, size = ctx.counts, weight_hh.shape[1]
        weight_x = weight_ih.roll(size, 0)
        grad_wx, grad_wh = torch.zeros_like(weight_ih), torch.zeros_like(weight_hh)
        grad_bias, grad_x = x.new_zeros(4 * size), torch.empty_like(x)
        room, ones = x.new_empty(counts[0], 4 * size), x.new_ones(counts[0])
        total, part = x.new_empty(2, counts[0], size)
        views = _views(gates, counts, True)
        xs, grad_xs, grad_hs = x.split(counts), grad_x.split(counts), grad_hidden.split(counts)
        before = (x.new_zeros(counts[0], size), *hidden.split(counts))
        carry = x.new_zeros(0, size)
        for t in reversed(range(len(counts))):
            if (count := counts[t]) > len(carry):  # longer than this step are fewer sequences
                now, one = room[:count], ones[:count]
                x_side, h_side = now[:, : 3 * size], now[:, size:]
                now_t, x_side_t, h_side_t = now.t(), x_side.t(), h_side.t()
                grad_new, grad_reset, grad_update, grad_inner = now.split(size, 1)
                grad, rest = total[:count], part[:count]
                carry = F.pad(carry, (0, 0, 0, count - len(carry)))
            _, _, new, reset, update, inner = views[t]
            previous = before[t][:count]
            torch.add(grad_hs[t], carry, out=grad)
            torch.sub(previous, new, out=rest).mul_(grad)
            _sigmoid_slope(rest, update, grad_input=grad_update)
            carry = grad * update
            _tanh_slope(grad.sub_(carry), new, grad_input=grad_new)
            _sigmoid_slope(torch.mul(grad_new, inner, out=rest), reset, grad_input=grad_reset)
            torch.mul(grad_new, reset, out=grad_inner)
            carry.addmm_(h_side, weight_hh)
            torch.mm(x_side, weight_x, out=grad_xs[t])
            grad_wh.addmm_(h_side_t, previous)
            grad_wx.addmm_(x_side_t, xs[t])
            grad_bias.addmv_(now_t, one)
        grad_bx, grad_bh = grad_bias[: 3 * size].roll(-size), grad_bias[size:]
        return grad_x, grad_wx.roll(-size, 0), grad_wh, grad_bx, grad_bh, None


def _views(gates: Tensor, counts: list[int], apart: bool) -> list[tuple[Tensor, ...]]:
    """Of each step: the input's side, the hidden state's side, and the four gates.

    apart: every step has rows of its own in ``gates``; else all use the first ones.
    """
    size = gates.shape[1] // 4
    columns = gates[:, : 3 * size], gates[:, size:], *gates.split(size, 1)
    if apart:
        return list(zip(*(c.split(counts) for c in columns)))
    shared = {count: tuple(c[:count] for c in columns) for count in set(counts)}
    return [shared[count] for count in counts]
