"""Tools that look into data set files: info, compare, contact sheets, extraction, and the audit.

The audit searches an HDF5 file for duplicates, borders and padding.
"""
