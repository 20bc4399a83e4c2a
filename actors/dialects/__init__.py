"""How other models write a call and read what came back."""
