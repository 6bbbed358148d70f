"""Tried on copies: is a masked model the pruned one?"""
