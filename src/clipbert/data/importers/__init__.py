"""Official annotation files of known data sets, turned into canonical data; one file a data set."""
