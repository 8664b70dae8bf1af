"""Jobs on a Dask cluster: the connection, the run of the jobs, and the side of a worker."""
