"""Reads a bundle's BatchNorm figures for people: chosen, ordered, as a document, as a table. No torch, no HTTP."""
