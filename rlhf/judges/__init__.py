"""Judges, which tell the better of two answers: models here, endpoints elsewhere, rubrics. RLHF Book, chapter 12."""
