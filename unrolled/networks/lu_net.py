"""LU-Net: a convolutional long short-term memory along the views of a scan, and a U-Net after it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import require_dimensions
from .pictures import wrapped
from .unet import UNet


class ConvLSTM(nn.Module):
    """A convolutional long short-term memory along the views, (N, channels, views, bins[, rows]) -> (N, width, ...)::

        i, f, o = sigmoid(W_x * x_v + W_h * h_(v-1) + b),     g = tanh(...)
        c_v = f c_(v-1) + i g,     h_v = o tanh(c_v)

    convolutions (*) run over the bins of a view; c and h are 0 before the first view.

    Args:
        dimensions : 2, views of bins; 3, views of bins and rows.
        backwards : from the last view to the first.

    Source: Shi et al. 2015, NeurIPS 28 (ConvLSTM), without peepholes.
    """

    def __init__(self, dimensions: int, in_channels: int, width: int, *, backwards: bool = False) -> None:
        super().__init__()
        require_dimensions(dimensions, "ConvLSTM")
        inner = dimensions - 1
        self.width, self.backwards = width, backwards
        kernel, padding = (1, *[3] * inner), (0, *[1] * inner)
        self.of_input = (nn.Conv2d if dimensions == 2 else nn.Conv3d)(in_channels, 4 * width, kernel, padding=padding)
        self.of_state = (nn.Conv1d if dimensions == 2 else nn.Conv2d)(width, 4 * width, 3, padding=1, bias=False)
        with torch.no_grad():
            self.of_input.bias[width : 2 * width] = 1.0  # it begins by remembering

    def forward(self, x: Tensor) -> Tensor:
        """Return h of every view."""
        given = self.of_input(x).unbind(2)
        h = c = torch.zeros_like(given[0][:, : self.width])
        states: list[Tensor] = []
        for part in reversed(given) if self.backwards else given:
            i, f, o, g = (part + self.of_state(h)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            states.append(h)
        return torch.stack(states[::-1] if self.backwards else states, 2)


class LUNet(nn.Module):
    """A network of data that goes along the views, (N, channels, views, bins[, rows]) -> the same, and its variance::

        h = ConvLSTM forwards and backwards( data, mask, data interpolated )
        p, q = U-Net( data, mask, data interpolated, h ),     data <- relu(interpolated + p),     v = exp(q)

    It is called as `unrolled.DataNet` is: (data, mask, interpolated, half_turn). The turn goes on at both ends, so that
    the memory knows the views before the first.

    Args:
        dimensions : 2 or 3.
        width : channels of the memory and of the first level of the U-Net.
        levels : of the U-Net.
        norm : "instance", "batch", "group" or "none".

    Source: after Li et al. 2022, Math Biosci Eng 19:4320 (LU-Net: LSTM along the views and U-Net, for sparse SPECT); a
    convolutional memory, the residual and the variance are ours.
    """

    def __init__(self, dimensions: int, *, width: int = 16, levels: int = 3, norm: str = "instance") -> None:
        super().__init__()
        self.dimensions, self.margin = dimensions, 2**levels
        self.forwards = ConvLSTM(dimensions, 3, width)
        self.backwards = ConvLSTM(dimensions, 3, width, backwards=True)
        self.unet = UNet(dimensions, 3 + 2 * width, width=width, levels=levels, norm=norm, non_negative=False)
        self.unet.last = (nn.Conv2d if dimensions == 2 else nn.Conv3d)(width, 2, 1)
        nn.init.zeros_(self.unet.last.weight)  # it begins as the interpolation, with variance 1
        nn.init.zeros_(self.unet.last.bias)

    def forward(self, data: Tensor, mask: Tensor, first: Tensor, half_turn: bool) -> tuple[Tensor, Tensor]:
        """Return the completed data and their variance, both (N, 1, views, bins[, rows])."""
        inputs = wrapped(torch.cat([data, mask, first], 1), self.margin, half_turn=half_turn, before=True)
        made = self.unet(torch.cat([inputs, self.forwards(inputs), self.backwards(inputs)], 1))
        made = made[:, :, self.margin : -self.margin]
        return torch.relu(first + made[:, :1]), torch.exp(made[:, 1:].clamp(-10, 10))
