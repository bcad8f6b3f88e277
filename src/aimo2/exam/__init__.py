"""A whole exam: one clock, one problem at a time, nothing lost. Knows no terminal and no gateway.

`runner` asks and answers, `clock` counts, `config` holds the rules, `records` and `folder` keep
what happened.
"""

from aimo2.exam.clock import Clock, SystemClock
from aimo2.exam.config import ExamConfig, competitions, load_competition
from aimo2.exam.folder import ExamFolder, exam_history
from aimo2.exam.records import ExamAnswer, History
from aimo2.exam.runner import Ask, Exam, ExamStatus, Question, Unwatched, Watcher

__all__ = [
    "Ask",
    "Clock",
    "Exam",
    "ExamAnswer",
    "ExamConfig",
    "ExamFolder",
    "ExamStatus",
    "History",
    "Question",
    "SystemClock",
    "Unwatched",
    "Watcher",
    "competitions",
    "exam_history",
    "load_competition",
]
