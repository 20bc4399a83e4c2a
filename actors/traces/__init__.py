"""What is imitated: plans, executed by the real tools and written down as the policy should have said them."""
