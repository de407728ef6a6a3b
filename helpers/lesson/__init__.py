"""What every lesson needs: measured numbers, figures, exercises and their progress."""
