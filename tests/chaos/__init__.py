"""`make chaos`: runs whose processes, disks, clocks and objects fail, against undisturbed ones."""
