"""Numbers that the papers report, by suite. LPIPS of all of them is of VGG's size; see docs/paper-suites.md."""

from __future__ import annotations

from l2o_splat.bench.suites.suite import Published

L2S = "arXiv 2605.15760"
L2S_TIME = f"{L2S}, main table (time of 4000 Adam steps)"
L2S_TUNED = f"{L2S}, tuned Adam (equal time)"
L2S_WEIGHTS = f"{L2S}, unified and dedicated weights (best within 2000 steps)"
RESPLAT = "arXiv 2510.08575"


def _main(method: str, best: float, end: float | None, steps: int | None, lpips: float, ssim: float, gb: float):
    """A row of Learn2Splat's main table; an end of None diverged."""
    return Published(method, end, ssim, lpips, best, steps, peak_gb=gb, source=L2S_TIME)


def _tuned(psnr: float) -> Published:
    return Published("Adam, tuned", best_psnr=psnr, source=L2S_TUNED)


def _resplat(method: str, psnr: float, ssim: float, lpips: float, table: str, **others) -> Published:
    return Published(method, psnr, ssim, lpips, source=f"{RESPLAT}, {table}", **others)


def _counted(updates: int) -> str:
    return f"{updates} update{'' if updates == 1 else 's'}"


def _updates(table: str, values: tuple[tuple[float, float, float], ...], label: str = "ReSplat") -> list[Published]:
    """Rows of ReSplat after 0, 1, 2, ... updates."""
    return [
        _resplat(f"{label}, {_counted(count)}", *quality, table, steps=count) for count, quality in enumerate(values)
    ]


_LEARN2SPLAT: dict[str, tuple[Published, ...]] = {
    "dl3dv": (
        _main("G3R*", 25.81, 25.12, 1608, 0.218, 0.838, 1.6),
        _main("Adam", 27.78, 27.78, 4000, 0.185, 0.879, 1.5),
        _main("Learn2Splat", 29.04, 29.04, 1713, 0.157, 0.896, 1.5),
        _tuned(27.18),
    ),
    "dtu": (
        _main("G3R*", 27.19, None, None, 0.350, 0.869, 1.0),
        _main("Adam", 28.96, 28.96, 4000, 0.309, 0.899, 1.0),
        _main("Learn2Splat", 29.25, 29.25, 1919, 0.308, 0.900, 1.0),
        _tuned(29.31),
    ),
    "llff": (
        _main("G3R*", 22.77, 22.68, 1975, 0.355, 0.723, 1.4),
        _main("Adam", 22.82, 22.82, 4000, 0.354, 0.731, 1.3),
        _main("Learn2Splat", 24.56, 24.56, 2855, 0.303, 0.767, 1.3),
        _tuned(20.98),
    ),
    "mipnerf360": (
        _main("G3R*", 23.62, 22.68, 1441, 0.423, 0.658, 4.4),
        _main("Adam", 25.62, 25.62, 4000, 0.372, 0.715, 3.4),
        _main("Learn2Splat", 25.75, 25.75, 2013, 0.367, 0.715, 3.5),
        _tuned(24.42),
    ),
    "dl3dv-8v": (
        _main("G3R*", 30.34, 27.93, 1688, 0.093, 0.916, 0.9),
        _main("Adam", 30.02, 29.91, 4000, 0.097, 0.909, 0.6),
        _main("Learn2Splat", 30.53, 30.53, 1924, 0.090, 0.917, 0.9),
        _main("ReSplat, on and on", 26.59, 5.99, 1252, 0.144, 0.854, 1.5),
        _tuned(30.29),
    ),
    "dl3dv-8v-512x960": (
        _main("G3R*", 26.99, 23.83, 1697, 0.192, 0.846, 3.0),
        _main("Adam", 26.60, 26.32, 4000, 0.197, 0.837, 1.8),
        _main("Learn2Splat", 27.16, 27.16, 2063, 0.185, 0.846, 3.0),
        _main("ReSplat, on and on", 22.08, None, None, 0.325, 0.722, 20.2),
        _tuned(26.72),
    ),
    "dl3dv-32v": (
        _main("G3R*", 29.86, 26.75, 2279, 0.100, 0.911, 4.2),
        _main("Adam", 29.78, 29.70, 4000, 0.103, 0.904, 4.1),
        _main("Learn2Splat", 30.26, 30.26, 2334, 0.095, 0.913, 4.2),
        _main("ReSplat, on and on", 21.33, 5.51, 1797, 0.258, 0.743, 12.0),
        _tuned(30.02),
    ),
    "re10k-8v": (
        _main("G3R*", 26.01, None, None, 0.214, 0.855, 3.0),
        _main("Adam", 25.57, 25.26, 4000, 0.223, 0.844, 1.8),
        _main("Learn2Splat", 26.08, 26.08, 1818, 0.214, 0.852, 3.0),
        _main("ReSplat, on and on", 19.90, None, None, 0.338, 0.745, 20.2),
        _tuned(26.02),
    ),
}

_RESPLAT: dict[str, tuple[Published, ...]] = {
    "dl3dv-8v": (
        _resplat("3DGS", 26.44, 0.841, 0.134, "table S1", steps=4000, num_gaussians=250_000, seconds=49),
        _resplat("DepthSplat", 25.79, 0.861, 0.134, "table 2", num_gaussians=918_000),
        _resplat("WorldMirror", 23.54, 0.789, 0.193, "table 2"),
        *_updates(
            "scripts and table 2",
            (
                (26.767, 0.865, 0.142),
                (28.168, 0.890, 0.118),
                (28.727, 0.898, 0.110),
                (28.964, 0.901, 0.107),
                (29.065, 0.902, 0.105),
            ),
            "ReSplat small",
        ),
        *_updates(
            "scripts and table 2",
            (
                (27.365, 0.877, 0.130),
                (28.523, 0.896, 0.113),
                (28.959, 0.902, 0.107),
                (29.131, 0.904, 0.104),
                (29.198, 0.904, 0.104),
            ),
            "ReSplat base",
        ),
        _resplat("ReSplat large, 0 updates", 27.861, 0.886, 0.121, "scripts", steps=0),
    ),
    "dl3dv-16v": (
        _resplat("3DGS", 27.38, 0.864, 0.119, "table S1", steps=4000, num_gaussians=395_000, seconds=70),
        _resplat("ReSplat, 0 updates", 26.949, 0.869, 0.135, "scripts", steps=0),
        _resplat("ReSplat, 4 updates", 29.01, 0.900, 0.105, "table S1", steps=4, num_gaussians=114_000, seconds=0.34),
    ),
    "dl3dv-32v": (
        _resplat("3DGS", 27.86, 0.879, 0.113, "table S1", steps=4000, num_gaussians=522_000, seconds=160),
        _resplat("ReSplat, 0 updates", 26.290, 0.858, 0.144, "scripts", steps=0),
        _resplat("ReSplat, 4 updates", 28.30, 0.891, 0.114, "table S1", steps=4, num_gaussians=229_000, seconds=0.75),
    ),
    "dl3dv-8v-512x960": (
        _resplat("3DGS", 20.36, 0.667, 0.448, "table 1", steps=1000, num_gaussians=9_000, seconds=15),
        _resplat("3DGS", 23.18, 0.763, 0.269, "table 1", steps=2000, num_gaussians=137_000, seconds=31),
        _resplat("3DGS", 23.42, 0.770, 0.232, "table 1", steps=3000, num_gaussians=283_000, seconds=50),
        _resplat("3DGS", 23.46, 0.770, 0.224, "table 1", steps=4000, num_gaussians=359_000, seconds=70),
        _resplat("MVSplat", 22.49, 0.764, 0.261, "table 1", num_gaussians=3_932_000, seconds=0.129),
        _resplat("DepthSplat", 24.17, 0.815, 0.208, "table 1", num_gaussians=3_932_000, seconds=0.190),
        *(
            _resplat(f"ReSplat, {_counted(n)}", *quality, "table 1", steps=n, num_gaussians=246_000, seconds=seconds)
            for n, (*quality, seconds) in enumerate(
                (
                    (26.21, 0.842, 0.185, 0.311),
                    (27.15, 0.859, 0.169, 0.437),
                    (27.51, 0.865, 0.163, 0.563),
                    (27.65, 0.867, 0.161, 0.689),
                    (27.70, 0.868, 0.160, 0.816),
                )
            )
        ),
    ),
    "dl3dv-16v-540x960": (
        _resplat("3DGS", 21.20, 0.708, 0.264, "table 3", steps=30_000, seconds=780),
        _resplat("Mip-Splatting", 20.88, 0.712, 0.274, "table 3"),
        _resplat("Scaffold-GS", 22.13, 0.738, 0.250, "table 3", seconds=960),
        _resplat("Long-LRM", 22.66, 0.740, 0.292, "table 3", num_gaussians=2_073_000, seconds=0.4),
        _resplat("ReSplat, 0 updates", 22.69, 0.742, 0.307, "table 3", steps=0, num_gaussians=518_000, seconds=0.7),
        _resplat("ReSplat, 1 update", 23.23, 0.758, 0.291, "table 3", steps=1, num_gaussians=518_000, seconds=1.2),
        _resplat("ReSplat, 2 updates", 23.51, 0.766, 0.284, "table 3", steps=2, num_gaussians=518_000, seconds=1.7),
    ),
    "re10k": (
        _resplat("pixelSplat", 25.89, 0.858, 0.142, "table 4"),
        _resplat("MVSplat", 26.39, 0.869, 0.128, "table 4"),
        _resplat("DepthSplat", 27.47, 0.889, 0.114, "table 4"),
        _resplat("GS-LRM", 28.10, 0.892, 0.114, "table 4"),
        _resplat("Long-LRM", 28.54, 0.895, 0.109, "table 4"),
        _resplat("LVSM, encoder-decoder", 28.58, 0.893, 0.114, "table 4"),
        _resplat("LVSM, decoder only", 29.67, 0.906, 0.098, "table 4"),
        _resplat("ReSplat, 0 updates", 29.055, 0.905, 0.107, "scripts", steps=0),
        _resplat("ReSplat, 2 updates", 29.75, 0.912, 0.100, "table 4", steps=2),
    ),
    "acid": (
        _resplat("pixelSplat", 27.64, 0.830, 0.160, "table 5 (weights of RE10K)"),
        _resplat("MVSplat", 28.15, 0.841, 0.147, "table 5 (weights of RE10K)"),
        _resplat("DepthSplat", 28.37, 0.847, 0.141, "table 5 (weights of RE10K)"),
        _resplat("GS-LRM", 28.84, 0.849, 0.146, "table 5 (weights of RE10K)"),
        _resplat("ReSplat, 0 updates", 28.848, 0.854, 0.148, "scripts (weights of RE10K)", steps=0),
        _resplat("ReSplat, 2 updates", 29.87, 0.864, 0.135, "table 5 (weights of RE10K)", steps=2),
    ),
}

_GENERALISATION = {
    "dl3dv-4v-512x960": ((24.056, 0.786, 0.240), {1: (24.503,), 2: (24.587,), 3: (24.605, 0.794, 0.228)}),
    "dl3dv-6v-512x960": ((25.223, 0.819, 0.208), {1: (25.698,), 2: (25.795,), 3: (25.816, 0.827, 0.196)}),
    "dl3dv-10v-512x960": ((26.610, 0.852, 0.176), {4: (28.184, 0.877, 0.151)}),
    "dl3dv-12v-512x960": ((26.770, 0.857, 0.171), {4: (28.472, 0.883, 0.144)}),
    "dl3dv-14v-512x960": ((26.884, 0.862, 0.166), {4: (28.747, 0.888, 0.139)}),
    "dl3dv-16v-512x960": ((26.898, 0.865, 0.164), {4: (28.918, 0.892, 0.135)}),
    "dl3dv-8v-448x832": ((25.468, 0.833, 0.187), {1: (26.895,), 2: (27.350,), 3: (27.511,), 4: (27.574, 0.867, 0.156)}),
    "dl3dv-8v-416x768": ((24.136, 0.808, 0.207), {1: (26.201,), 2: (26.868,), 3: (27.085,), 4: (27.171, 0.860, 0.159)}),
    "dl3dv-8v-320x640": ((20.896, 0.726, 0.276), {1: (23.898,), 2: (25.393,), 3: (25.891,), 4: (26.075, 0.837, 0.178)}),
}
"""The model of 8 views and 512 x 960 on other numbers of views and other sizes: PSNR, SSIM, LPIPS by updates."""


def _generalisation(start: tuple[float, ...], later: dict[int, tuple[float, ...]]) -> tuple[Published, ...]:
    source = f"{RESPLAT}, scripts (weights of 8 views, 512 x 960)"
    return tuple(
        Published(f"ReSplat, {_counted(count)}", *quality, steps=count, source=source)
        for count, quality in {0: start, **later}.items()
    )


def published_for(suite: str) -> tuple[Published, ...]:
    """Rows of the papers for a suite, by its name."""
    rows = (*_LEARN2SPLAT.get(suite, ()), *_RESPLAT.get(suite, ()))
    return (*rows, *_generalisation(*_GENERALISATION[suite])) if suite in _GENERALISATION else rows


CROSSED: dict[str, tuple[float, float, float]] = {
    "dl3dv": (17.03, 28.92, 29.07),
    "dtu": (21.61, 29.10, 29.26),
    "llff": (14.21, 24.33, 24.46),
    "mipnerf360": (18.26, 25.67, 25.78),
    "dl3dv-8v": (30.60, 30.24, 30.53),
    "dl3dv-8v-512x960": (27.10, 26.90, 27.17),
    "dl3dv-32v": (30.18, 30.05, 30.25),
    "re10k-8v": (26.28, 26.11, 26.08),
}
"""Best PSNR of Learn2Splat with weights of sparse, of dense, and of both kinds of data, by suite."""


def crossed_rows() -> dict[str, tuple[Published, ...]]:
    """The same as rows."""
    kinds = ("sparse", "dense", "unified")
    return {
        suite: tuple(
            Published(f"Learn2Splat, {kind} weights", best_psnr=psnr, source=L2S_WEIGHTS)
            for kind, psnr in zip(kinds, values, strict=True)
        )
        for suite, values in CROSSED.items()
    }


def ablation_rows() -> dict[str, tuple[Published, ...]]:
    """ReSplat's ablations: weights of the small model, each trained without a part."""
    values = {
        "full": 29.07,
        "update without error": 27.19,
        "update with colours' error only": 27.90,
        "update with features' error only": 28.77,
        "update without state": 27.79,
        "update without kNN": 28.58,
        "update without global attention": 28.96,
        "weights not shared over updates": 28.71,
        "one deeper update": 28.40,
        "initial model without kNN, 0 updates": 25.30,
        "initial model without global attention, 0 updates": 26.33,
    }
    source = f"{RESPLAT}, tables 6 and S (each trained that way)"
    return {"dl3dv-8v": tuple(Published(f"ReSplat: {name}", psnr, source=source) for name, psnr in values.items())}
