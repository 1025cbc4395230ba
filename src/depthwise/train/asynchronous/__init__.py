"""Asynchronous descent: workers push gradients without waiting for each other, in an order that can be repeated."""
