"""Regularisers of meta-training in cases that can be worked out by hand; golden values are under tests/golden."""

import torch

from l2o_splat.meta.losses import stability_loss, uphill_loss


def test_only_steps_uphill_or_without_evidence_are_penalised():
    steps = torch.tensor([[0.1, -0.2, 0.4, 0.0]], requires_grad=True)
    gradients = torch.tensor([[1.0, 1.0, 1e-9, 1.0]])
    directions = torch.tensor([[1.0, 1.0, -1.0, 1.0]])
    loss = uphill_loss(steps, gradients, directions)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor((0.1 + 0.4) / 2))
    torch.testing.assert_close(steps.grad, torch.tensor([[0.5, 0.0, 0.5, 0.0]]))
    assert uphill_loss(-torch.ones(1, 4), torch.ones(1, 4), torch.ones(1, 4)) == 0


def test_only_rises_of_the_error_count():
    errors = torch.tensor([[0.3, 0.5], [0.4, 0.2], [0.1, 0.5]], requires_grad=True)
    loss = stability_loss(errors)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(0.1 + 0.3))
    assert torch.equal(errors.grad, torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
