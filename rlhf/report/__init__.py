"""Reports: run directories to HTML pages and pictures. Command: python -m rlhf.report"""
