"""What pgpool-follow consists of: state decides, hosts asks and acts, program is the command line and the loops."""
