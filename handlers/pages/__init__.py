"""The report for people: one content, two forms.

`document` makes the content from a result (`content` holds its nouns, `drawing` those of its
figures); `html` and `pdf` give it a form each. Both say the same numbers in the same order, because
numbers become words in the content already. Values in, bytes out: knows no DICOM and no clock, and
reads nothing but the fonts that come with the library which brings them. Equal values give equal
bytes.
"""
