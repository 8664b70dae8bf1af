"""Quality filter: scores a folder of images of any size and keeps the best of them.

listing           the image files below a folder
score             the score of an image of any size; the worker that scores files
records           the score of a file or the reason why it has none, as JSON and CSV
store             the scores folder, from which a killed command resumes
deliver           the selection, copied or linked into another folder; removal of files delivered earlier
delivery_record   the files that were delivered, so that only these are removed
report            the HTML page and the closing lines
run               `filter_folder`, which does all of this in order; it imports torch in its workers only
"""
