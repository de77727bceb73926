"""Passes over micro-batches into files, and from the files the kernel blocks, module by module.

A micro-batch file ``rows-<start>-<stop>.safetensors`` holds, per module, ``x/<name>`` [B, T, a] and ``g/<name>``
[B, T, P·b] (exact), or ``features/<name>`` [P, B, k·k] (sketch), where the P scalars are the output scalars and,
unless ∇ℓ is a multiple of ∇f, the loss last; of a stack of experts also ``e/<name>`` [B, T], the expert of each token;
besides ``f0``, ``losses``, ``labels``, ``pooled``. An x that several modules share is stored once, its name in the file's
metadata. ``module-<index>.safetensors`` holds a finished module's blocks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from advisor.core.errors import OutOfMemory
from advisor.core.events import Session, Stage
from advisor.core.recipe import BY_ODDS
from advisor.core.store import replacing
from advisor.models.encode import EncodedRow, collate
from advisor.models.forward import logits_of, passing
from advisor.models.load import LoadedModel
from advisor.probing import gram
from advisor.probing.capture import Capture, capturing, fewer_rows
from advisor.probing.keep import ProjectedRow, reading
from advisor.probing.outputs import Outputs, exact_outputs, forward_outputs
from advisor.probing.part_file import is_whole, save_part

MICRO_BATCH_TOKENS = {"cpu": 1024, "cuda": 8192}
DETERMINISM_ROWS = 2  # enough to show dropout or a random layer
ESTIMATE_ROWS = 8
RECOMPUTED = "activations are computed again in the backward pass instead of being kept."


@dataclass(frozen=True)
class Layer:
    """A captured module: its widths, whether a bias belongs to its block, and the seed of its sketch; of a stack, how many
    experts it holds and a token goes through."""

    name: str
    in_features: int
    out_features: int
    bias: bool
    seed: int
    experts: int = 0
    slots: int = 1


@dataclass(frozen=True)
class Spool:
    """The micro-batch files of one probe.

    Attributes:
        folder: where the files are.
        rows: probe rows, shortest first: the order of the blocks.
        layers: modules to capture.
        outputs: the scalars to differentiate.
        label_mean, label_std: regression labels are standardised with them.
        sketch_size: k, or None for exact blocks.
        micro_batch: most rows at once, None: by tokens.
        recompute: keep no activations of the model's blocks but compute them again in the backward pass, from the start
            on; else once one row does not fit in memory.
    """

    folder: Path
    rows: Sequence[EncodedRow]
    layers: Sequence[Layer]
    outputs: Outputs
    label_mean: float
    label_std: float
    sketch_size: int | None
    micro_batch: int | None
    recompute: bool = False

    @property
    def scalars(self) -> int:
        """Backward passes per micro-batch."""
        return self.outputs.count + (0 if self.outputs.loss_gradient_is_scaled else 1)

    def files(self) -> list[Path]:
        """Finished micro-batches in row order; they cover rows 0 … k without a gap."""
        return sorted(self.folder.glob("rows-*.safetensors"))

    def drop_damaged(self, session: Session) -> None:
        """Remove what an interrupted probe left and is not as it was written; it is then made anew."""
        damaged = [path for path in self.folder.glob("module-*.safetensors") if not is_whole(path)]
        files, stop = self.files(), 0
        for index, path in enumerate(files):
            start = int(path.stem.split("-")[1])
            if start != stop or not is_whole(path):
                damaged += files[index:]  # later ones too, so that those that stay have no gap
                break
            stop = _stop(path)
        for path in damaged:
            path.unlink()
        if damaged:
            session.warn(f"{damaged[0]}: damaged, so it is made anew, {len(damaged)} files in all.")

    def is_sketched(self) -> bool:
        """Whether the files there are hold sketches."""
        with safe_open(self.files()[0], "pt") as file:
            return any(key.startswith("features/") for key in file.keys())  # noqa: SIM118

    def bytes_needed(self, item_size: int) -> int:
        """Disk for the exact spool, an upper bound: idle tokens and shared inputs are not stored."""
        tokens = sum(row.length for row in self.rows)
        widths = sum(layer.slots * (layer.in_features + self.scalars * layer.out_features) for layer in self.layers)
        return tokens * widths * item_size

    def read(self, key: str) -> torch.Tensor:
        """A per-example tensor of all rows: ``f0``, ``losses``, ``labels`` or ``pooled`` (the head's last inputs)."""
        parts = []
        for path in self.files():
            with safe_open(path, "pt") as file:
                parts.append(file.get_tensor(key))
        return torch.cat(parts)

    # --- passes -------------------------------------------------------------------------------------------------

    def fill(self, loaded: LoadedModel, session: Session) -> None:
        """Run the passes that are still missing.

        Raises:
            OutOfMemory: one row does not fit. NotFinite: names the module. Interrupted: files so far are kept.
        """
        files = self.files()
        start = _stop(files[-1]) if files else 0
        most = self.micro_batch or len(self.rows)
        stage = Stage(session, "Forward and backward passes (rows)", len(self.rows), start)
        with self.capturing(loaded, self.layers) as capture:
            while start < len(self.rows):
                session.check()
                batch = self.rows[start : start + min(self._rows_by_tokens(start, loaded), most)]
                try:
                    if start == 0:
                        self._check_determinism(loaded, capture, batch[:DETERMINISM_ROWS], session)
                    tensors, shared = self._micro_batch(loaded, capture, batch)
                except (MemoryError, RuntimeError) as error:
                    capture.clear()
                    tokens = batch[-1].length
                    try:
                        most = fewer_rows(error, len(batch), tokens, session)
                    except OutOfMemory:
                        if capture.recompute or not loaded.blocks:
                            raise
                        capture.recompute = True
                        session.warn(f"Out of memory with one row of {tokens} tokens; {RECOMPUTED}")
                    continue
                stop = start + len(batch)
                path = self.folder / f"rows-{start:06d}-{stop:06d}.safetensors"
                with replacing(path, sync=False, needed=sum(t.nbytes for t in tensors.values())) as temporary:
                    save_part(tensors, temporary, {"shared": json.dumps(shared)})
                del tensors  # else they would stay during the next passes
                stage.advance(units=len(batch))
                start = stop

    def capturing(self, loaded: LoadedModel, layers: Sequence[Layer]) -> AbstractContextManager[Capture]:
        """Hooks for some layers; blocks are recomputed if asked for, and where weights are fetched."""
        # In the graph of a whole pass all weights would stay that were fetched from elsewhere.
        return capturing(loaded.model, [layer.name for layer in layers], loaded.blocks, self.recompute or loaded.offloaded)

    def micro_batches(self, loaded: LoadedModel) -> list[tuple[int, int]]:
        """Rows and padded tokens of each, if memory suffices."""
        found, start, most = [], 0, self.micro_batch or len(self.rows)
        while start < len(self.rows):
            count = min(self._rows_by_tokens(start, loaded), most)
            found.append((count, self.rows[start + count - 1].length))
            start += count
        return found

    def _rows_by_tokens(self, start: int, loaded: LoadedModel) -> int:
        limit = tokens_at_once(loaded.device)
        count = 1
        while start + count < len(self.rows) and (count + 1) * self.rows[start + count].length <= limit:
            count += 1
        return count

    def forward(self, loaded: LoadedModel, capture: Capture, rows: Sequence[EncodedRow]) -> tuple[torch.Tensor, ...]:
        """The differentiated outputs, f0, losses and labels of some rows; of a :class:`ProjectedRow` its projection is the first
        output and the loss."""
        capture.clear()
        capture.sequences = len(rows[0].sequences)
        batch = collate(rows, loaded, self.label_mean, self.label_std)
        labels = batch.pop("labels")
        with reading(loaded, rows, batch) as projected, passing(loaded, rows):
            logits = logits_of(loaded, loaded.model(**batch), batch)
        values, f0, losses = projected.in_place_of(*forward_outputs(self.outputs, logits, labels))
        capture.require_finite(values)
        return values, f0, losses, torch.zeros(len(rows)) if labels.dim() > 1 else labels

    def _check_determinism(self, loaded: LoadedModel, capture: Capture, rows: Sequence[EncodedRow], session: Session) -> None:
        """Repeat the first rows' forward pass: dropout left on, or a random layer, shows here."""
        first, second = (self.forward(loaded, capture, rows)[0].detach() for _ in range(2))
        if not torch.allclose(first, second, rtol=1e-4, atol=1e-5):
            apart = float((first - second).abs().max())
            session.warn(f"The model is not deterministic: the same rows gave outputs {apart:.2g} apart.")

    def _micro_batch(
        self, loaded: LoadedModel, capture: Capture, rows: Sequence[EncodedRow]
    ) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """The tensors of one file, and for each module whose x is another's, that other's name."""
        values, f0, losses, labels = self.forward(loaded, capture, rows)
        scalars = [values[:, p].sum() for p in range(self.outputs.count)]
        if not self.outputs.loss_gradient_is_scaled:
            scalars.append(losses.sum())
        layers = {layer.name: layer for layer in self.layers}
        last = self.layers[-1].name if loaded.head else None
        inputs: dict[str, torch.Tensor] = {}
        gradients: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
        features: dict[str, list[torch.Tensor]] = {name: [] for name in layers}

        routes = {name: route for name in layers if (route := capture.experts(name, len(rows))) is not None}

        def take(name: str, x: torch.Tensor, g: torch.Tensor) -> None:
            if self.sketch_size is not None:
                features[name].append(self._sketched(layers[name], x, g, routes.get(name)))
            if self.sketch_size is None or name == last:
                inputs[name] = x
                gradients[name].append(g)

        for scalar in scalars:
            capture.backward(scalar, len(rows), scalar is not scalars[-1], take)
        capture.clear()
        tensors = {"f0": f0.float(), "losses": losses.detach().float(), "labels": labels}
        if last and self.outputs.task not in BY_ODDS:  # a token counts by its share of the gradient: all, or of a mean 1/T
            g = torch.cat(gradients[last], -1)  # of all projections, as one may be void
            whole = g.sum(1, keepdim=True)
            share = (g * whole).sum(-1, keepdim=True) / whole.square().sum(-1, keepdim=True)
            tensors["pooled"] = (share * inputs[last]).sum(1).float()
        shared: dict[str, str] = {}
        owner: dict[tuple[object, ...], str] = {}
        written: set[int] = set()
        for layer in self.layers:
            if self.sketch_size is not None:
                tensors[f"features/{layer.name}"] = torch.stack(features.pop(layer.name))
                continue
            parts = gradients.pop(layer.name)
            g = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
            x = inputs.pop(layer.name)
            if layer.name in routes:
                tensors[f"e/{layer.name}"] = routes[layer.name].short()
            else:
                x, g = gram.drop_idle_tokens(x, g)
            # Where attention and MLP run side by side (GPT-J, GPT-NeoX) one tensor is the gradient of both.
            tensors[f"g/{layer.name}"] = g.clone() if g.data_ptr() in written else g
            written.add(g.data_ptr())
            place = (x.data_ptr(), x.shape, x.stride())
            if place in owner:
                shared[layer.name] = owner[place]
            else:
                owner[place] = layer.name
                tensors[f"x/{layer.name}"] = x
        return {key: tensor.contiguous().cpu() for key, tensor in tensors.items()}, shared

    def _sketched(self, layer: Layer, x: torch.Tensor, g: torch.Tensor, experts: torch.Tensor | None) -> torch.Tensor:
        """Sketch features of one scalar's gradients, [B, k·k]; ``experts`` of a stack's tokens, [B, T]."""
        assert self.sketch_size is not None
        if experts is not None:
            widths = (layer.experts * layer.in_features, layer.out_features)
            return gram.stack_features(x, g, experts, gram.sketch_projections(*widths, self.sketch_size, layer.seed, x.device))
        x, g = gram.drop_idle_tokens(x, g)
        x = gram.with_bias(x) if layer.bias else x
        width = layer.in_features + layer.bias
        projections = gram.sketch_projections(width, layer.out_features, self.sketch_size, layer.seed, x.device)
        return gram.sketch_features(x, g, projections)

    # --- contraction --------------------------------------------------------------------------------------------

    def pieces(self, layer: Layer, device: torch.device) -> list[gram.Piece]:
        """x [B, T, a] (ones appended where a bias counts) and g [B, T, P·b] of one module, exact spools only."""
        result = []
        for path in self.files():
            with safe_open(path, "pt") as file:
                owner = json.loads(file.metadata()["shared"]).get(layer.name, layer.name)
                x, g = file.get_tensor(f"x/{owner}"), file.get_tensor(f"g/{layer.name}")
            x, g = x.to(device), g.to(device)
            result.append((gram.with_bias(x) if layer.bias else x, g))
        return result

    def experts(self, layer: Layer, device: torch.device) -> list[torch.Tensor]:
        """Of a stack, the expert of each of its pieces' tokens, [B, T]."""
        found = []
        for path in self.files():
            with safe_open(path, "pt") as file:
                found.append(file.get_tensor(f"e/{layer.name}").to(device))
        return found

    def contract(
        self, slopes: torch.Tensor | None, method: str, device: torch.device, session: Session
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, str]]:
        """Blocks W and G of every layer, [layers, n, n] each on the CPU, and the method used for each.

        Args:
            slopes: dℓ_i/df_i [n] where ∇ℓ_i is that multiple of ∇f_i; else None, and G has passes of its own.
            method: ``auto`` picks by cost per module.
        """
        weight, gradient, methods = [], [], {}
        stage = Stage(session, "Kernel blocks (modules)", len(self.layers))
        for index, layer in enumerate(self.layers):
            session.check()
            path = self.folder / f"module-{index:05d}.safetensors"
            if not path.exists():
                w, g, used = self._contract_layer(layer, slopes, method, device)
                with replacing(path, sync=False, needed=w.nbytes + g.nbytes) as temporary:
                    save_part({"weight": w.cpu(), "gradient": g.cpu()}, temporary, {"method": used})
            done = load_file(path)
            with safe_open(path, "pt") as file:
                methods[layer.name] = file.metadata()["method"]
            weight.append(done["weight"])
            gradient.append(done["gradient"])
            stage.advance(layer.name)
        return torch.stack(weight), torch.stack(gradient), methods

    def _contract_layer(
        self, layer: Layer, slopes: torch.Tensor | None, method: str, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor, str]:
        if self.sketch_size is not None:
            parts = []
            for path in self.files():
                with safe_open(path, "pt") as file:
                    parts.append(file.get_tensor(f"features/{layer.name}").to(device))
            grams = [gram.gram(features) for features in torch.cat(parts, 1)]
            block, own = sum(grams[1 : self.outputs.count], grams[0]), grams[-1]
            method = gram.KRONECKER
        else:
            pieces = self.pieces(layer, device)
            parts_of = [pieces] if not layer.experts else gram.by_expert(pieces, self.experts(layer, device), layer.experts)
            block = own = torch.zeros(len(self.rows), len(self.rows), device=device)
            used: list[str] = []
            for part in parts_of:
                one, two, how = self._contract_part(layer, part, slopes is None, method)
                block, own = block + one, own + two
                used.append(how)
            method = max(set(used), key=used.count) if used else gram.MATERIALISE
        block = self.outputs.weight * block
        return block, (block * torch.outer(slopes, slopes).to(device) if slopes is not None else own), method

    def _contract_part(
        self, layer: Layer, pieces: list[gram.Piece], with_own: bool, method: str
    ) -> tuple[torch.Tensor, torch.Tensor, str]:
        """Blocks W and G of a linear module, or of one expert of a stack; W in the place of G unless that has its own passes."""
        # Σ_p J_p J_pᵀ is one block: that of the P output gradients side by side.
        cut = self.outputs.count * layer.out_features
        if method == "auto":
            shapes = [x.shape for x, _ in pieces]
            method = gram.cheapest_method([s[1] for s in shapes], [s[0] for s in shapes], shapes[0][2], cut)
        block = gram.exact_block([(x, g[..., :cut]) for x, g in pieces], method)
        own = gram.exact_block([(x, g[..., cut:]) for x, g in pieces], method) if with_own else block
        return block, own, method

    def estimate_errors(self, loaded: LoadedModel, layers: Sequence[Layer]) -> Mapping[str, float]:
        """Relative Frobenius error of the output blocks as stored (sketch, sign projections), on the first rows.

        The reference is exact and over all classes: one backward pass more for every class beyond two.
        """
        fitted = _stop(self.files()[0])  # as many rows as have fitted in memory
        own = [row for row in self.rows if not isinstance(row, ProjectedRow)]
        rows = own[: min(ESTIMATE_ROWS, fitted)]
        exact = replace(self, outputs=exact_outputs(self.outputs))
        blocks_of = []
        with self.capturing(loaded, layers) as capture:
            for spool in (exact, self):
                values = spool.forward(loaded, capture, rows)[0]
                count = spool.outputs.count
                passes = [capture.pairs(values[:, p].sum(), len(rows), p + 1 < count) for p in range(count)]
                found = {}
                for layer in layers:
                    pairs, route = [each.pop(layer.name) for each in passes], capture.experts(layer.name, len(rows))
                    if spool is exact or self.sketch_size is None:
                        x = gram.with_bias(pairs[0][0]) if layer.bias else pairs[0][0]
                        pieces = [(x, torch.cat([g for _, g in pairs], -1))]
                        parts = [pieces] if route is None else gram.by_expert(pieces, [route], layer.experts)
                        block = sum(
                            (gram.exact_block(part, gram.MATERIALISE) for part in parts), torch.zeros((), device=x.device)
                        )
                    else:
                        grams = [gram.gram(self._sketched(layer, x, g, route)) for x, g in pairs]
                        block = sum(grams[1:], grams[0])
                    found[layer.name] = (spool.outputs.weight * block).cpu()
                blocks_of.append(found)
        reference, stored = blocks_of
        return {name: gram.relative_error(stored[name], reference[name]) for name in reference}


def tokens_at_once(device: torch.device) -> int:
    """Padded tokens that a pass takes at most, unless a single row has more."""
    return MICRO_BATCH_TOKENS.get(device.type, MICRO_BATCH_TOKENS["cpu"])


def _stop(path: Path) -> int:
    """The row after the last one of a micro-batch file."""
    return int(path.stem.split("-")[2])
