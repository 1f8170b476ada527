"""Evaluates completions: metrics, baselines, drives and their ground truth, reports, bag replay."""
