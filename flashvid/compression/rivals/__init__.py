"""The methods that FlashVID is compared with, one file each, and its own parts alone."""
