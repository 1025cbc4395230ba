"""How good a network is: the numbers (`metrics`), and the page a person looks at (`report`)."""
