"""The grader: it loads a student's file (student.py), runs it on tiny guests (trial.py), a step at a time (step.py), in
a process of its own with a limit of time (child.py, parent.py), and says what it found (report.py).
"""
