"""How sure the end of a run has to be, in one place for those who decide and those who report."""

LEVEL = 0.025  # one-sided, of each look after which a finalist may stop early
ONE_SIDED = 1.959964  # standard errors that are this level
ERRORS = 1.0  # standard errors of the paired difference that a simpler recipe may be below the winner
LUCK = 1.0  # standard errors of the paired difference by which a single candidate has to beat what rests on many
LEAD_KEPT = 0.75  # of the winner's lead over the best baseline that must be left to a simpler recipe
SURE = 0.05  # of the corrected p, up to which genes are said to have mattered
FRONT_SHOWN = 20  # members of a front in the report, and on record with the verdict; front.csv has them all
