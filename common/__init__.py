"""The language of the house: values, ports, chat and token rules, scoring, media. Knows no other room."""
