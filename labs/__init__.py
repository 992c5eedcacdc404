"""The labs: NN_name/ holds a handout, a starter and checks; grader/ runs them; kit.py is what students build on."""
