"""Kernel blocks W = J Jᵀ of one module from its token inputs x and output gradients g: exact contractions and a sketch.

The weight gradient of an example is Σ_t g_t x_tᵀ. A *piece* is one micro-batch: x [B, T, a] and g [B, T, b], ragged
between pieces. Blocks come out float64-safe float32, [n, n], in the pieces' order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

MATERIALISE, TOKEN_GRAM, KRONECKER = "materialise", "token-gram", "kronecker"
TILE_FLOATS = 4_000_000  # floats held at once by one tile of materialised gradients (16 MB, which a cache may hold)
STRIPS = 4  # of rows in which a Gram matrix is made, each up to its diagonal
ELEMENT_COST = 12.0  # multiply-adds a memory-bound element of the token Gram is worth

Piece = tuple[torch.Tensor, torch.Tensor]


def cheapest_method(tokens: Sequence[int], rows: Sequence[int], a: int, b: int) -> str:
    """The exact method with fewer multiply-adds for pieces of ``rows`` examples × ``tokens`` tokens (docs/design.md 2.1).

    Materialise costs ΣBT·ab + n²·ab; the token Gram half of (ΣBT)²·(a + b + ``ELEMENT_COST``), half by symmetry.
    """
    total = sum(t * r for t, r in zip(tokens, rows, strict=True))
    n = sum(rows)
    materialise = total * a * b + n * n * a * b
    token_gram = 0.5 * total * total * (a + b + ELEMENT_COST)
    return TOKEN_GRAM if token_gram < materialise else MATERIALISE


def drop_idle_tokens(x: torch.Tensor, g: torch.Tensor) -> Piece:
    """Leave out tokens whose gradient is exactly zero (padding, tokens the output never reads); exact.

    Each example keeps its own tokens, moved to the front; the piece keeps as many as its fullest example.
    """
    active = g.abs().amax(-1) > 0
    longest = max(1, int(active.sum(1).max()))
    if longest == g.shape[1]:
        return x, g
    order = torch.argsort(active.to(torch.uint8), dim=1, descending=True, stable=True)[:, :longest]
    index = order[..., None]
    return x.gather(1, index.expand(-1, -1, x.shape[-1])), g.gather(1, index.expand(-1, -1, g.shape[-1]))


def by_expert(pieces: Sequence[Piece], experts: Sequence[torch.Tensor], count: int) -> Iterator[list[Piece]]:
    """The pieces of each of ``count`` experts alone; exact. Within a stack an expert is a linear module with its own tokens.

    Args:
        experts: the expert of each token, [B, T], of each piece.
    """
    for expert in range(count):
        own = [which == expert for which in experts]
        if any(bool(active.any()) for active in own):
            yield [drop_idle_tokens(x, g * active[..., None]) for (x, g), active in zip(pieces, own, strict=True)]


def with_bias(x: torch.Tensor) -> torch.Tensor:
    """x with a column of ones, so that the bias gradient Σ_t g_t joins the weight gradient."""
    return torch.cat([x, torch.ones_like(x[..., :1])], -1)


def materialise(pieces: Sequence[Piece]) -> torch.Tensor:
    """Per-example weight gradients, a tile of output rows at a time, contracted into their Gram matrix."""
    n = sum(x.shape[0] for x, _ in pieces)
    a, b = pieces[0][0].shape[-1], pieces[0][1].shape[-1]
    tile = max(1, min(b, TILE_FLOATS // (n * a)))
    device = pieces[0][0].device
    block = torch.zeros(n, n, device=device)
    gradients = torch.empty(n, tile, a, device=device)
    for low in range(0, b, tile):
        width = min(tile, b - low)
        view = gradients[:, :width]
        start = 0
        for x, g in pieces:
            stop = start + x.shape[0]
            torch.bmm(g[..., low : low + width].transpose(1, 2), x, out=view[start:stop])
            start = stop
        flat = view.reshape(n, width * a)
        for rows in torch.arange(n).tensor_split(STRIPS):
            if len(rows):
                low_row, stop = int(rows[0]), int(rows[-1]) + 1
                block[low_row:stop, :stop].addmm_(flat[low_row:stop], flat[:stop].T)
    return block.tril() + block.tril(-1).T


def token_gram(pieces: Sequence[Piece]) -> torch.Tensor:
    """Σ_{t,s} (g_it·g_js)(x_it·x_js) over pairs of pieces, the lower triangle of pieces mirrored."""
    sizes = [x.shape[0] for x, _ in pieces]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    block = torch.zeros(sum(sizes), sum(sizes), device=pieces[0][0].device)
    for i, (x1, g1) in enumerate(pieces):
        for j, (x2, g2) in enumerate(pieces[: i + 1]):
            products = x1.flatten(0, 1) @ x2.flatten(0, 1).T
            products *= g1.flatten(0, 1) @ g2.flatten(0, 1).T
            part = products.view(x1.shape[0], x1.shape[1], x2.shape[0], x2.shape[1]).sum((1, 3))
            rows, columns = slice(starts[i], starts[i] + sizes[i]), slice(starts[j], starts[j] + sizes[j])
            block[rows, columns] = part
            block[columns, rows] = part.T
    return block


def exact_block(pieces: Sequence[Piece], method: str) -> torch.Tensor:
    """The block by ``method``, in fp32 whatever the pieces' dtype; symmetric to the last bit."""
    pieces = [(x.float(), g.float()) for x, g in pieces]
    block = materialise(pieces) if method == MATERIALISE else token_gram(pieces)
    return 0.5 * (block + block.T)


def sketch_projections(a: int, b: int, k: int, seed: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Independent Gaussian maps [a, k] and [b, k] with entry variance 1/k: inner products are kept in expectation.

    The same seed gives the same maps on one kind of device, others on another.
    """
    generator = torch.Generator(device).manual_seed(seed)
    scale = k**-0.5
    project_x = torch.randn(a, k, generator=generator, device=device) * scale
    project_g = torch.randn(b, k, generator=generator, device=device) * scale
    return project_x, project_g


def sketch_features(x: torch.Tensor, g: torch.Tensor, projections: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Kronecker sketch of the weight gradient, [B, k·k]; its Gram matrix is unbiased for W (docs/design.md 2.1)."""
    project_x, project_g = projections
    small_x = (x @ project_x.to(x.dtype)).float()
    small_g = (g @ project_g.to(g.dtype)).float()
    return torch.bmm(small_g.transpose(1, 2), small_x).flatten(1)


def stack_features(
    x: torch.Tensor, g: torch.Tensor, experts: torch.Tensor, projections: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """The same of a stack of experts, [B, k·k]: x has a map of its own for each expert, project_x [experts·a, k]."""
    project_x, project_g = projections
    maps = project_x.view(-1, x.shape[-1], project_x.shape[-1])
    small_x = x.new_zeros(*x.shape[:-1], maps.shape[-1])
    for expert, own in enumerate(maps):
        active = experts == expert
        small_x[active] = x[active] @ own.to(x.dtype)
    small_g = (g @ project_g.to(g.dtype)).float()
    return torch.bmm(small_g.transpose(1, 2), small_x.float()).flatten(1)


def gram(features: torch.Tensor) -> torch.Tensor:
    """F Fᵀ in fp32, symmetric to the last bit."""
    block = features.float() @ features.float().T
    return 0.5 * (block + block.T)


def relative_error(block: torch.Tensor, reference: torch.Tensor) -> float:
    """‖block − reference‖ / ‖reference‖ in the Frobenius norm (0 when both are zero)."""
    size = float(torch.linalg.norm(reference.double()))
    error = float(torch.linalg.norm(block.double() - reference.double()))
    return error / size if size else (0.0 if error == 0 else float("inf"))
