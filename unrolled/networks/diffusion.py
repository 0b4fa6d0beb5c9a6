"""A diffusion model of images, given the image that is to be enhanced and its guides, on MONAI's network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .optional import optional_module
from .unet import pad_to_multiple

_WHO = "ConditionalDiffusion"
_MIDDLE, _SPREAD = 1.0, 2.0  # images over their mean become about -1/2 to a few units


class ConditionalDiffusion(nn.Module):
    """A denoising diffusion model p(u | channels) of good images u, of which it draws samples, as a network of images.

    With v = (u - 1) / 2, a_t = prod(1 - b_s) and b from 1e-4 to 0.02 in `steps` equal steps::

        training   v_t = sqrt(a_t) v + sqrt(1 - a_t) e,   e ~ N(0, 1),   minimise ``|e - net(v_t, channels, t)|^2``
        use        v_T ~ N(0, 1), and back to v by `sampling` steps of DDIM with eta = 0; the mean of `samples` draws

    The network sees image and guides (MR) as channels beside v_t. Draws come from `seed`, so that the same image gives
    the same result; with several draws their spread is that of the posterior as the model has learned it.

    Args:
        widths : channels of the levels, from fine to coarse.
        attention : whether the coarsest level has attention.
        steps : T.
        sampling : of the steps, those that use takes.
        samples : draws whose mean is the result.

    Train it by `Diffusing`. Raises ImportError that names the extra where MONAI is not installed.

    Source: Ho et al. 2020, NeurIPS (DDPM); Song et al. 2021, ICLR (DDIM); Gong et al. 2024, Eur J Nucl Med Mol Imaging
    51:358 (PET with MR as channels).
    """

    def __init__(
        self,
        dimensions: int = 2,
        in_channels: int = 1,
        *,
        widths: Sequence[int] = (32, 64, 128),
        attention: bool = True,
        steps: int = 1000,
        sampling: int = 50,
        samples: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 1 <= sampling <= steps or samples < 1 or not widths:
            raise ValueError(f"{_WHO} takes 1 to {steps} sampling steps, got {sampling}, and 1 sample or more")
        nets = optional_module("monai.networks.nets.diffusion_model_unet", _WHO, "MONAI and einops", "monai")
        groups = math.gcd(8, *widths)
        self.dimensions, self.in_channels = dimensions, in_channels
        self.multiple = (2 ** (len(widths) - 1),) * dimensions
        self.sampling, self.samples, self.seed = sampling, samples, seed
        self.network = nets.DiffusionModelUNet(
            spatial_dims=dimensions,
            in_channels=1 + in_channels,
            out_channels=1,
            num_res_blocks=1,
            channels=tuple(widths),
            attention_levels=tuple(attention and k == len(widths) - 1 for k in range(len(widths))),
            norm_num_groups=groups,
            num_head_channels=groups,
        )
        kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, steps, dtype=torch.float64), 0)
        self.register_buffer("kept", kept.to(torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean of draws, (N, in_channels, ...) -> (N, 1, ...)."""
        return self.draws(x).mean(0)

    def draws(self, x: Tensor, samples: int | None = None) -> Tensor:
        """Return samples of the better image, (samples, N, 1, ...), negative values set to 0."""
        generator = torch.Generator().manual_seed(self.seed)
        n = self.samples if samples is None else samples
        return torch.stack([self._drawn(x, generator) for _ in range(n)])

    def noise_loss(self, x: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the noise that the network finds in a target of random noise.

        Args:
            x : (N, in_channels, ...), target : (N, 1, ...), in the unit of x.
        """
        v = (target - _MIDDLE) / _SPREAD
        times = torch.randint(len(self.kept), (len(v),), generator=generator)
        noise = torch.randn(v.shape, generator=generator, dtype=v.dtype).to(v.device)
        a = self.kept[times].to(v.dtype).reshape(-1, *[1] * (v.ndim - 1))
        noisy = a.sqrt() * v + (1 - a).sqrt() * noise
        found = self._noise(noisy, x, times.to(v.device))
        return ((found - noise) ** 2).mean()

    def _noise(self, v: Tensor, x: Tensor, times: Tensor) -> Tensor:
        padded, crop = pad_to_multiple(torch.cat([v, x], 1), self.multiple)
        made: Tensor = self.network(padded, times)[crop]
        return made

    def _drawn(self, x: Tensor, generator: torch.Generator) -> Tensor:
        shape = (len(x), 1, *x.shape[2:])
        v = torch.randn(shape, generator=generator, dtype=x.dtype).to(x.device)
        kept = self.kept.to(x.dtype)
        places = torch.linspace(len(kept) - 1, 0, self.sampling).round().long().tolist()
        for t, after in zip(places, [*places[1:], -1]):
            a, b = kept[t], kept[after] if after >= 0 else torch.ones_like(kept[t])
            noise = self._noise(v, x, torch.full((len(x),), t, device=x.device))
            clean = (v - (1 - a).sqrt() * noise) / a.sqrt()
            v = b.sqrt() * clean + (1 - b).sqrt() * noise
        return (_MIDDLE + _SPREAD * v).clamp(min=0)
