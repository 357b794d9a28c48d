"""Capsules: all that is needed to run one test again, in one file; made at a failure, and replayed."""
