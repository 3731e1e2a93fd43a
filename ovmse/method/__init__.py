"""The paper and nothing else: tensors in, tensors out; no files, no battles.

Read in this order: algorithms (what differs), schedules, networks, targets, conservatism, learner
(one update, top to bottom like Algorithm 1), exploration (Algorithm 2); recurrent is for speed.
"""
