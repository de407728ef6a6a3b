"""What only the capstone needs: the contest of the engines, and the referee of the open
project.
"""
