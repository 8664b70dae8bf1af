"""Quality filter: scores a folder of images of any size and keeps the best of them.

listing   the image files below a folder
score     the score of an image of any size; the worker that scores files
store     the score of a file or the reason why it has none; the scores folder, from which a killed command resumes
deliver   copies or links in another folder, and the record of them, so that only these are removed later
report    the HTML page and the closing lines
run       `filter_folder`, which does all of this in order; it imports torch in its workers only
"""
