"""Machinery no single paper owns."""
