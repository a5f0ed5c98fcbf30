"""Clients for servers of exports."""
