"""The least that a package can add to offrl: one of each kind."""

WRONG = "no format, no estimator and no logger"
