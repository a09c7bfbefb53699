"""Agents that don't learn, one file each: what a learned agent is measured against."""
