"""What a network costs, what it would cost of regular convolutions, and the width that meets a budget."""
