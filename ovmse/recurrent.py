"""A GRU over sequences of different lengths that never computes a padded step.

``torch.nn.GRU`` computes padding, and on a CPU its packed sequences cost more than the padding
they save. Sequences sorted by length, longest first, shrink from the end as time goes on, so
step t works on the first ``counts[t]`` rows. The backward pass is written by hand: it collects
the gradients of all steps and multiplies once by the weights' side.
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable


class RaggedGRU(torch.autograd.Function):
    """``h_t = GRU(x_t, h_{t-1})`` with ``h_{-1} = 0``, in ``torch.nn.GRUCell``'s equations.

    gates_x ``[R, 3H]``: ``x W_ih^T + b_ih`` for every row, time-major (all rows of step 0, then
    all of step 1, ...); counts: rows per step, never growing, ``sum(counts) = R``;
    weight_hh ``[3H, H]``, bias_hh ``[3H]``. Returns the hidden states ``[R, H]``.
    """

    @staticmethod
    def forward(ctx, gates_x, weight_hh, bias_hh, counts):  # type: ignore[no-untyped-def]
        size = weight_hh.shape[1]
        rows = gates_x.shape[0]
        hidden = gates_x.new_empty(rows, size)
        gates = gates_x.new_empty(rows, 3 * size)  # r, z, n after their nonlinearities
        inner = gates_x.new_empty(rows, size)  # h W_hn^T + b_hn, which r multiplies
        weight_t = weight_hh.t()
        previous = gates_x.new_zeros(counts[0], size)
        start = 0
        for count in counts:
            stop = start + count
            previous = previous[:count]
            gates_h = torch.addmm(bias_hh, previous, weight_t)
            now = gates[start:stop]
            torch.add(
                gates_x[start:stop, : 2 * size], gates_h[:, : 2 * size], out=now[:, : 2 * size]
            )
            now[:, : 2 * size].sigmoid_()
            reset, update, new = now.split(size, 1)
            inner[start:stop] = gates_h[:, 2 * size :]
            torch.addcmul(gates_x[start:stop, 2 * size :], reset, inner[start:stop], out=new)
            new.tanh_()
            torch.lerp(new, previous, update, out=hidden[start:stop])
            previous = hidden[start:stop]
            start = stop
        ctx.save_for_backward(hidden, gates, inner, weight_hh)
        ctx.counts = counts
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_hidden):  # type: ignore[no-untyped-def]
        hidden, gates, inner, weight_hh = ctx.saved_tensors
        counts, size = ctx.counts, weight_hh.shape[1]
        grad_x = torch.empty_like(
            gates
        )  # gradient at the gates' x side, which is also r, z's h side
        grad_h = torch.empty_like(gates)
        previous_all = torch.zeros_like(hidden)
        stop = hidden.shape[0]
        carry = hidden.new_zeros(counts[-1], size)
        for t in range(len(counts) - 1, -1, -1):
            count = counts[t]
            start = stop - count
            reset, update, new = gates[start:stop].split(size, 1)
            grad = grad_hidden[start:stop].clone()
            grad[: carry.shape[0]] += carry
            if t > 0:
                before = start - counts[t - 1]
                previous = hidden[before : before + count]
                previous_all[start:stop] = previous
            else:
                previous = torch.zeros_like(new)
            gx, gh = grad_x[start:stop], grad_h[start:stop]
            grad_new = gx[:, 2 * size :]
            torch.mul(grad * (1 - update), 1 - new * new, out=grad_new)
            torch.mul(grad * (previous - new), update * (1 - update), out=gx[:, size : 2 * size])
            torch.mul(grad_new * inner[start:stop], reset * (1 - reset), out=gx[:, :size])
            gh[:, : 2 * size] = gx[:, : 2 * size]
            torch.mul(grad_new, reset, out=gh[:, 2 * size :])
            carry = torch.addcmul(gh @ weight_hh, grad, update)
            stop = start
        return grad_x, grad_h.t() @ previous_all, grad_h.sum(0), None
