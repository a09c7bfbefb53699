"""Kills, damaged files, crowds, full disks and mistakes: what becomes of the commands, by one command."""
