"""From verified sessions to OCPI 2.2.1 charge detail records; money in whole minor units."""
