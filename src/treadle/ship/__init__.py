"""The live version as a folder that runs elsewhere: container, cluster, service, and plain files."""
