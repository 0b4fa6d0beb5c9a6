"""Networks of absorbed dose: activity and density in, dose out, for tissue that kernels of water do not know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.grid import positive_numbers
from emrecon.projectors.physics import isotope
from emrecon.recon.dosimetry import DoseMap, emissions_of, uniform_dose, voxel_kernel

from ..networks.unet import UNet
from .enhancer import Enhancer

AIR = 0.1
"""g/mL below which a voxel is air and gets no dose, as everywhere in `recon.dosimetry`."""

_SAME_VOXEL = 0.01  # relative difference of voxels that counts as the same
_LEAST = 1e-4  # share of the energy from which a specific kernel begins where water has less
_MGY_H = 3600.0 / 1000  # mGy/(MBq s) to Gy/(MBq h)


class DoseNetwork(nn.Module):
    """What makes a dose of a time-integrated activity and a density, for one nuclide and one size of voxels::

        network(A, guide=rho) = D,      A in MBq h/mL, rho in g/mL, D in Gy, all (..., x, y, z)

    Twice the activity gives twice the dose; air below 0.1 g/mL gets none; no dose is negative.

    Args:
        nuclide : of `therapy_nuclides()`.
        voxel_size : mm, of the images that it was made for: kernels and what is learned belong to it.

    `dose` checks that images fit and returns a `DoseMap`; it serves as a `method` of `treatment_dose`.

    Raises ValueError for other nuclides, images of other shapes than their density, densities that are not finite.
    """

    def __init__(self, nuclide: str, voxel_size: Sequence[float] | float) -> None:
        super().__init__()
        self.nuclide = emissions_of(nuclide).nuclide
        x, y, z = positive_numbers(voxel_size, 3, "voxel_size (mm)")
        self.voxel_size = (x, y, z)
        self._kernels: dict[tuple[int, ...], np.ndarray] = {}

    @cached_property
    def local(self) -> float:
        """Gy of 1 MBq h/mL in water without end, all energy absorbed where it arises."""
        return uniform_dose(self.nuclide, 1.0)

    def forward(self, x: Tensor, sigma: object = None, *, guide: Array | None = None) -> Tensor:
        """Return the dose in Gy; sigma is taken and not used, as by every `Denoiser`."""
        rho = self._density(guide, x)
        dose = self.predicted(x, rho)
        return torch.where(rho < AIR, torch.zeros_like(dose), dose.clamp(min=0))

    def predicted(self, x: Tensor, rho: Tensor) -> Tensor:
        """Return the dose before air and negative values are set to 0."""
        raise NotImplementedError

    def dose(self, activity: Array, grid: ImageGrid, nuclide: str, *, density: Array | None = None) -> DoseMap:
        """Return the dose of an activity in MBq h/mL as `absorbed_dose` does, with the method "network".

        Raises ValueError for another nuclide, voxels that differ by more than 1 %, and a missing density.
        """
        self.check(grid, nuclide)
        if density is None:
            raise ValueError("a network of dose needs the density in g/mL")
        A, rho = (np.asarray(to_numpy(v), float) for v in (activity, density))
        for what, values in (("activity", A), ("density", rho)):
            if values.shape != grid.shape or not np.isfinite(values).all() or values.min() < 0:
                raise ValueError(f"{what} must be finite, not negative and of shape {grid.shape}, got {values.shape}")
        if rho.max() > 25:
            raise ValueError(f"densities go up to {rho.max():.4g} g/mL; are these Hounsfield units, or kg/m3?")
        weight = next(self.parameters())
        with torch.no_grad():
            found = self(torch.as_tensor(A, dtype=weight.dtype, device=weight.device), guide=rho)
        image = np.asarray(to_numpy(found), float)
        emitted = float(A.sum()) * self.local  # Gy g per mL
        absorbed = float((image * rho).sum()) / emitted if emitted > 0 else 0.0
        return DoseMap(image, grid, self.nuclide, A, rho, "network", absorbed)

    def check(self, grid: ImageGrid, nuclide: str) -> None:
        """Raise ValueError unless the network was made for a nuclide and the voxels of a grid, to 1 %."""
        name = isotope(nuclide).name
        if name != self.nuclide:
            raise ValueError(f"the network was made for {self.nuclide}, not for {name}")
        if any(abs(a / b - 1) > _SAME_VOXEL for a, b in zip(grid.voxel_size, self.voxel_size)):
            made, given = (" x ".join(f"{d:g}" for d in v) for v in (self.voxel_size, grid.voxel_size))
            raise ValueError(f"the network was made for voxels of {made} mm, not of {given} mm; resample the images")

    def in_water(self, x: Tensor) -> Tensor:
        """Return the dose of voxel S values in water of 1 g/mL, Gy; nothing wraps around."""
        return self._convolved(x, self._kernel(x.shape[-3:]))

    def _kernel(self, shape: Sequence[int]) -> np.ndarray:
        """Voxel S values to all sides, Gy per MBq h in a voxel, of (2 n - 1) voxels."""
        key = tuple(shape)
        if key not in self._kernels:
            S = voxel_kernel(self.nuclide, self.voxel_size, half_width=tuple(n - 1 for n in key))
            self._kernels = {key: S.values * _MGY_H}  # of the last shape alone
        return self._kernels[key]

    @property
    def _volume(self) -> float:
        return float(np.prod(self.voxel_size)) / 1000

    def _convolved(self, x: Tensor, kernel: np.ndarray) -> Tensor:
        shape = x.shape[-3:]
        size = [2 * n - 1 + n - 1 for n in shape]
        spectrum = torch.fft.rfftn(x.double() * self._volume, size, dim=(-3, -2, -1))
        spectrum = spectrum * torch.fft.rfftn(torch.as_tensor(kernel, dtype=torch.float64, device=x.device), size)
        whole = torch.fft.irfftn(spectrum, size, dim=(-3, -2, -1))
        a, b, c = (slice(n - 1, 2 * n - 1) for n in shape)
        return whole[..., a, b, c].to(x.dtype)

    def _density(self, guide: Array | None, x: Tensor) -> Tensor:
        if guide is None:
            raise ValueError("a network of dose needs the density in g/mL: guide=...")
        rho = torch.as_tensor(np.asarray(to_numpy(guide))) if not isinstance(guide, Tensor) else guide
        if rho.shape[-3:] != x.shape[-3:]:
            raise ValueError(f"a density of {tuple(rho.shape)} does not fit an activity of {tuple(x.shape)}")
        rho = rho.to(dtype=x.dtype, device=x.device)
        if not bool((torch.isfinite(rho) & (rho >= 0)).all()):
            raise ValueError("the density must be finite and not negative (g/mL)")
        return rho.expand(x.shape)


class DirectDose(DoseNetwork):
    """The dose as the output of an `Enhancer` of the activity, in Gy of local absorption in water, and the density."""

    def __init__(self, enhancer: Enhancer, nuclide: str, voxel_size: Sequence[float] | float) -> None:
        super().__init__(nuclide, voxel_size)
        self.enhancer = enhancer

    def predicted(self, x: Tensor, rho: Tensor) -> Tensor:
        """Return enhancer(E A, rho)."""
        found: Tensor = self.enhancer(self.local * x, guide=rho)
        return found


class ResidualDose(DoseNetwork):
    """Voxel S values over density, D_S, and what an `Enhancer` adds: D = D_S + enhancer(D_S; density, local dose)."""

    def __init__(self, enhancer: Enhancer, nuclide: str, voxel_size: Sequence[float] | float) -> None:
        super().__init__(nuclide, voxel_size)
        self.enhancer = enhancer

    def predicted(self, x: Tensor, rho: Tensor) -> Tensor:
        """Return D_S and the correction."""
        scaled = self.in_water(x) / rho.clamp(min=AIR)
        scaled = torch.where(rho < AIR, torch.zeros_like(scaled), scaled)
        scale = self.enhancer.scale
        c = torch.ones_like(x[..., :1, :1, :1]) if scale is None else scale(scaled)
        local = self.local * x / torch.where(c > 0, c, torch.ones_like(c))
        found: Tensor = scaled + self.enhancer(scaled, guide=torch.stack([rho, local], -4), scale=c)
        return found


class SpecificKernels(DoseNetwork):
    """Kernels of every voxel's own surroundings, from a network that sees the density alone::

        D(v) = 1 / m(v) sum_u A(u) E f(u, v),     f(u, u + k) = softplus(s_k + n_k(rho around u))

    s_k is such that the kernel is that of water (or 1e-4 of the energy, where water has less) where the network says 0.
    Voxels farther than `reach` get the energy that they would in water. The dose is linear in the activity.

    Args:
        body : (N, 1, x, y, z) of density to (N, (2 reach + 1)^3, x, y, z).
        reach : voxels to each side.
    """

    def __init__(self, body: nn.Module, reach: int, nuclide: str, voxel_size: Sequence[float] | float) -> None:
        super().__init__(nuclide, voxel_size)
        if reach < 1:
            raise ValueError(f"SpecificKernels: reach must be 1 or more, got {reach}")
        self.body, self.reach = body, reach
        S = voxel_kernel(self.nuclide, self.voxel_size, half_width=reach)
        share = S.values * _MGY_H * self._volume / self.local  # of the emitted energy
        self.register_buffer("start", torch.as_tensor(_inverse_softplus(np.maximum(share, _LEAST)).ravel()).float())

    def predicted(self, x: Tensor, rho: Tensor) -> Tensor:
        """Return the dose of the specific kernels."""
        shape, n = x.shape[-3:], self.reach
        folded, around = x.reshape(-1, *shape), rho.reshape(-1, *shape)
        start = self.get_buffer("start").to(x.dtype)
        shares = nn.functional.softplus(start[:, None, None, None] + self.body(around[:, None]))
        energy = self._far(folded)
        wide = energy.new_zeros(len(folded), *(s + 2 * n for s in shape))
        sides = range(2 * n + 1)
        parts = [(a, b, c) for a in sides for b in sides for c in sides]
        for k, (a, b, c) in enumerate(parts):
            sent = self.local * folded * shares[:, k]
            wide = wide + nn.functional.pad(sent, (c, 2 * n - c, b, 2 * n - b, a, 2 * n - a))
        energy = energy + wide[:, n : n + shape[0], n : n + shape[1], n : n + shape[2]]
        return (energy / around.clamp(min=AIR)).reshape(x.shape)

    def _far(self, x: Tensor) -> Tensor:
        """The dose in water of voxels beyond the reach."""
        kernel = self._kernel(x.shape[-3:]).copy()
        near = tuple(slice(max(0, s // 2 - self.reach), s // 2 + self.reach + 1) for s in kernel.shape)
        kernel[near] = 0
        return self._convolved(x, kernel)


def _inverse_softplus(y: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.log(np.expm1(y))
    return found


def dose_unet(
    nuclide: str = "Lu-177",
    voxel_size: Sequence[float] | float = 4.8,
    *,
    width: int = 16,
    levels: int = 4,
    norm: str = "instance",
) -> DirectDose:
    """Return a 3-D U-Net of activity and density whose output is the dose, in Gy.

    Source: Lee et al. 2019, Sci Rep 9:10308 (PET and CT of Ga-68 to the dose rate of Monte Carlo, 10 patients).
    """
    body = UNet(3, 2, width=width, levels=levels, norm=norm)
    return DirectDose(Enhancer(body, 3, 1, "none"), nuclide, voxel_size)


def residual_dose_net(
    nuclide: str = "Lu-177",
    voxel_size: Sequence[float] | float = 4.8,
    *,
    width: int = 16,
    levels: int = 3,
    norm: str = "none",
) -> ResidualDose:
    """Return a 3-D U-Net that adds to the dose of voxel S values, scaled by density, what is wrong with it.

    It begins as voxel S values: the last layer's weights are 0.

    Source: after Li et al. 2022 (DblurDoseNet, a residual network on the dose of voxel kernels; theirs also undoes the
    blur of the SPECT image).
    """
    body = UNet(3, 3, width=width, levels=levels, norm=norm, non_negative=False)
    _silence(body)
    return ResidualDose(Enhancer(body, 3, 2, "none"), nuclide, voxel_size)


def specific_kernels_net(
    nuclide: str = "Lu-177",
    voxel_size: Sequence[float] | float = 4.8,
    *,
    width: int = 16,
    depth: int = 6,
    reach: int = 2,
) -> SpecificKernels:
    """Return a residual network of density that makes the kernel of every voxel.

    Args:
        depth, width : of its convolutions of 3 x 3 x 3; it sees `depth` voxels to each side.
        reach : of the kernels, voxels to each side.

    Source: Akhavanallaf et al. 2021, Eur J Nucl Med Mol Imaging 48:429 (20 layers, kernels of 11 voxels, C-11 and
    F-18).
    """
    n = (2 * reach + 1) ** 3
    layers: list[nn.Module] = [nn.Conv3d(1, width, 3, padding=1, padding_mode="replicate"), nn.LeakyReLU(0.1)]
    layers += [_Residual(width) for _ in range(max(0, (depth - 2) // 2))]
    last = nn.Conv3d(width, n, 3, padding=1, padding_mode="replicate")
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return SpecificKernels(nn.Sequential(*layers, last), reach, nuclide, voxel_size)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv3d(width, width, 3, padding=1, padding_mode="replicate") for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Add two convolutions."""
        found: Tensor = x + self.second(nn.functional.leaky_relu(self.first(x), 0.1))
        return found


def _silence(body: nn.Module) -> None:
    """Make a network's output 0 until it learns: weights and bias of its last convolution."""
    last = [m for m in body.modules() if isinstance(m, nn.Conv3d)][-1]
    nn.init.zeros_(last.weight)
    if last.bias is not None:
        nn.init.zeros_(last.bias)


DOSE_NETWORKS: dict[str, Callable[..., DoseNetwork]] = {
    "dose-unet": dose_unet,
    "specific-kernels": specific_kernels_net,
    "residual-dose": residual_dose_net,
}
"""The networks of dose by the names that cards of weights and `emrecon dose` have for them."""
