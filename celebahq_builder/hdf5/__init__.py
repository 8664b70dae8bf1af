"""The multi-resolution HDF5 file: layout, reader, writer."""
