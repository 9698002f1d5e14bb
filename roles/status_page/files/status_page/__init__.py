"""What status-page consists of: settings, questions, judgement, picture, page; program is its command line."""
