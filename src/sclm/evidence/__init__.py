"""Statistics without networks: calibration, back-off, novelty and plausibility of cells, coverage of sections, nulls."""

from __future__ import annotations

from sclm.evidence.aucell import SetMembers, aucell, match_sets
from sclm.evidence.backoff import BackOff, back_off
from sclm.evidence.calibration import fit_pool, fit_temperature, softmax
from sclm.evidence.claims import CLAIM_COLUMNS, Checker, Statement, claim_table, faithfulness
from sclm.evidence.claims_checkers import CellChecker, GroupChecker
from sclm.evidence.claims_thresholds import ClaimThresholds
from sclm.evidence.claims_wording import Said, describe_cell, describe_group, read_statements
from sclm.evidence.coexpression import coexpression
from sclm.evidence.coverage import Coverage, judge_coverage, marker_scores, residual_genes, signature_markers
from sclm.evidence.edges import strongest_edges
from sclm.evidence.novelty import ReferenceSpace
from sclm.evidence.nulls import GeneNull, NullTest, benjamini_hochberg, matched_genes
from sclm.evidence.permutations import PermutationTest, mean_shift_test, permutation_test
from sclm.evidence.plausibility import PlausibilityGuard
from sclm.evidence.profiles import judge_profiles, moved_counts
from sclm.evidence.set_activity import SetActivity, SetBackground
from sclm.evidence.signals import SignalTest, adjusted_scores, receiver_permutation_test
from sclm.evidence.voting import Ballots, consensus, over_cluster

__all__ = [
    "CLAIM_COLUMNS",
    "BackOff",
    "Ballots",
    "CellChecker",
    "Checker",
    "ClaimThresholds",
    "Coverage",
    "GeneNull",
    "GroupChecker",
    "NullTest",
    "PermutationTest",
    "PlausibilityGuard",
    "ReferenceSpace",
    "Said",
    "SetActivity",
    "SetBackground",
    "SetMembers",
    "SignalTest",
    "Statement",
    "adjusted_scores",
    "aucell",
    "back_off",
    "benjamini_hochberg",
    "claim_table",
    "coexpression",
    "consensus",
    "describe_cell",
    "describe_group",
    "faithfulness",
    "fit_pool",
    "fit_temperature",
    "judge_coverage",
    "judge_profiles",
    "marker_scores",
    "match_sets",
    "matched_genes",
    "mean_shift_test",
    "moved_counts",
    "over_cluster",
    "permutation_test",
    "read_statements",
    "receiver_permutation_test",
    "residual_genes",
    "signature_markers",
    "softmax",
    "strongest_edges",
]
