"""A YOLO26n whose BatchNorm layers have one fault each, to be found."""

from torch import nn

#: The channel that is dead in the first four. It lies in the half of model.2.cv1 that only model.2.cv2 reads.
VICTIM = 3
EXACT, BORDER, RESIDUAL = "model.2.cv1.bn", "model.0.bn", "model.2.m.0.cv2.bn"
DROPPED = "model.23.cv2.0.0.bn"
COLLAPSED, TINY, HUGE = "model.4.m.0.cv1.bn", "model.6.cv2.bn", "model.8.cv1.bn"
FROZEN, UNCALIBRATED, WIDE = "model.7.bn", "model.5.bn", "model.13.cv2.bn"
STILL = "model.3.bn"


def plant_faults(network: nn.Module) -> None:
    """Change a yolo26n in place."""

    def batchnorm(name: str) -> nn.BatchNorm2d:
        found = network.get_submodule(name)
        assert isinstance(found, nn.BatchNorm2d)
        return found

    for name in (EXACT, BORDER, RESIDUAL, DROPPED):
        batchnorm(name).weight.data[VICTIM], batchnorm(name).bias.data[VICTIM] = 0.0, 0.7
    batchnorm(COLLAPSED).weight.data[::2] = 0.004
    batchnorm(COLLAPSED).weight.data[1] = -0.002
    batchnorm(TINY).running_var[[1, 2]] = 1e-7
    batchnorm(TINY).running_var[5] = 5e-4
    batchnorm(HUGE).running_var[4] = 1e5
    for name in (FROZEN, UNCALIBRATED):
        batchnorm(name).running_mean.zero_()
        batchnorm(name).running_var.fill_(1.0)
    batchnorm(FROZEN).weight.data.fill_(1.0)
    batchnorm(FROZEN).bias.data.zero_()
    batchnorm(WIDE).weight.data[0] = 100.0
    batchnorm(STILL).momentum = 0.0
