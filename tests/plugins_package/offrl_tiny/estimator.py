"""The logged episodes' mean return, whatever the policy is."""

from offrl.off_policy.estimator import Estimator
from offrl.off_policy.weighted_sums import WeightedSum

ESTIMATOR = Estimator("the logged returns' mean", lambda ask: WeightedSum(ask.log.returns), needs=())
