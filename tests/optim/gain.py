"""A small gain rule, untrained (Adam) or with a head of random numbers."""

import torch

from l2o_splat.nets.gain_network import GainNetwork
from l2o_splat.nets.gain_shape import GainNetworkShape
from l2o_splat.optim.gain import GainConfig, GainRule

SHAPE = GainNetworkShape(latent_width=8, attention_width=4, hidden_width=12, num_blocks=2)
RATES = (0.08, 0.06, 0.04, 0.6, 0.08, 0.02)
PLAIN = {"neighbours": 4, "sh_limit": 2.0, "step_decay": None, "query_growth": None, "trust_decay": None}
"""Neither decays nor pauses between queries."""


def make_rule(trained: bool = False, **options) -> GainRule:
    network = GainNetwork(SHAPE).reset_to_adam(0, RATES)
    if trained:
        torch.manual_seed(1)
        torch.nn.init.normal_(network.head.weight, std=0.1)
    return GainRule(network, GainConfig(**PLAIN | options))
