"""What the stored records and events show of use, demand, stations and up-time."""
