"""Arithmetic between models of one shape, by tensor name and in fp32."""
